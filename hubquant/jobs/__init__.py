"""Many models one after the other, and jobs of several users that outlive what queued them.

``hubquant batch`` is a :class:`~hubquant.jobs.batch.Batch`: a recipe for many models in one process. A job is a batch
too, of one model or more, with an owner, in a process of its own::

    from hubquant.jobs.dispatch import Dispatcher
    from hubquant.jobs.job import LOCAL, Limits
    from hubquant.jobs.queue import Queue

    queue = Queue(limits=Limits(jobs=3))                # $HUBQUANT_HOME/ui, or Queue(folder)
    with Dispatcher(queue, workers=1).running():        # starts what is queued, also what an earlier app has queued
        queue.offer("alice", token)                     # of who has signed in; kept in memory alone
        job = queue.submit("alice", {"model": "Qwen/Qwen3-0.6B", "publish": {"to": "alice/Qwen3-0.6B-GGUF"}})
        queue.get("alice", job.id).state                # queued, waiting (for a token), running, done, …
        queue.events("alice", job.id, after=0)          # steps, bars and notes, as ``hubquant run --json`` has them
        queue.results("alice", job.id)                  # by model: its record and output folder
        queue.files("alice", job.id)                    # what may be downloaded; queue.file gives the path of one
        queue.cancel("alice", job.id); queue.retry("alice", job.id); queue.remove("alice", job.id)

What is somebody else's is, to each of these, not there. The owner ``LOCAL`` is the user of this machine himself: no
limits, all that a recipe may have, and the login of the command line.
"""
