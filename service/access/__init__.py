"""Who may do what: tokens and what they allow. No HTTP here; ``service.api.auth`` reads requests."""
