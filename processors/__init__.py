"""Functions over one file, and the small machinery that runs them. Knows nothing of the service.

An author imports all there is to need from here::

    from processors import Facts, Options, Reject, StepContext, processor
"""

from processors.contract import Facts, Limits, Options, Processor, Reject, RetryLater, StepContext, processor
from processors.warmth import warm

__all__ = ["Facts", "Limits", "Options", "Processor", "Reject", "RetryLater", "StepContext", "processor", "warm"]
