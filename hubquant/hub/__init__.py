"""The only room that talks to the Hugging Face Hub: pull, push, card.

Endpoint, token, cache and offline mode are huggingface_hub's own (HF_ENDPOINT, HF_TOKEN or ``hf auth login``, HF_HOME,
HF_HUB_OFFLINE). Every function raises ``HubAccessError``, ``HubUnavailableError``, ``OutputError`` or ``DiskFullError``
with the next command to type; no message holds a token.
"""
