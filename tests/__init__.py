"""The tests: ``unit``, ``contract``, ``integration`` and ``e2e``, and what they share (``needs``, ``waiting``)."""
