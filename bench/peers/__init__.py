"""The others: small servers written the obvious way, and programs from the registries."""
