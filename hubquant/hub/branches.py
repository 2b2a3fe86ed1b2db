"""Where in a repository a push goes: its main branch, another one, or a pull request."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from huggingface_hub import HfApi
from huggingface_hub.community import Discussion
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError

from hubquant.hub import answers
from hubquant.hub.access import Token
from hubquant.hub.failures import hub_errors
from hubquant.hub.retry import PATIENT, Retry

MAIN = "main"
MESSAGE = "Publish quantized files"
_UNDECIDED = ("open", "draft")


@dataclass(frozen=True)
class PushOptions:
    """``message`` is the commit's, and the title of a pull request. A pull request starts at ``main``, or goes on with
    the one of the same account and title that is still open: what is pushed twice makes one."""

    branch: str | None = None
    pull_request: bool = False
    message: str = MESSAGE


@dataclass(frozen=True)
class PushTarget:
    """``revision`` as commits name it, ``page`` what follows the repository's address; ``number`` of a pull request
    that is not open for review yet."""

    revision: str = MAIN
    page: str = ""
    number: int | None = None


def present_revision(repo_id: str, options: PushOptions, *, token: Token = None, retry: Retry = PATIENT) -> str:
    """Where to look for what was pushed this way before: main if nothing was."""
    api = HfApi(token=token)
    with hub_errors(repo_id, writing=True, token=token):
        try:
            found = retry.call(lambda: find(api, repo_id, options))
        except RepositoryNotFoundError:
            return MAIN
    return found.revision if found else MAIN


def find(api: HfApi, repo_id: str, options: PushOptions) -> PushTarget | None:
    """The branch or the pull request; None where it is not there."""
    if options.pull_request:
        return next((_goal(request) for request in _own_requests(api, repo_id, options.message)), None)
    if options.branch in (None, MAIN):
        return PushTarget()
    names = {branch.name for branch in api.list_repo_refs(repo_id).branches}
    return PushTarget(options.branch, f"/tree/{options.branch}") if options.branch in names else None


def make(api: HfApi, repo_id: str, options: PushOptions) -> PushTarget:
    """The branch or the pull request. May be called again where an answer got lost."""
    if found := find(api, repo_id, options):
        return found
    if options.branch is not None and not options.pull_request:
        api.create_branch(repo_id, branch=options.branch, exist_ok=True)
        return PushTarget(options.branch, f"/tree/{options.branch}")
    # One that create_commit opens is opened once more when its answer gets lost; this one is found again by its title.
    return _goal(api.create_pull_request(repo_id, options.message))


def ask_for_review(api: HfApi, repo_id: str, goal: PushTarget) -> None:
    """Take a pull request out of draft, once its commit is there."""
    if goal.number is None:
        return
    try:
        api.change_discussion_status(repo_id, goal.number, "open")
    except HfHubHTTPError as error:
        if error.response.status_code != 409:  # it is open: an answer got lost
            raise


def _own_requests(api: HfApi, repo_id: str, title: str) -> Iterator[Discussion]:
    author = answers.account(api.whoami()).name
    found = api.get_repo_discussions(repo_id, author=author, discussion_type="pull_request")
    return (request for request in found if request.title == title and request.status in _UNDECIDED)


def _goal(request: Discussion) -> PushTarget:
    number = request.num if request.status == "draft" else None
    return PushTarget(f"refs/pr/{request.num}", f"/discussions/{request.num}", number)
