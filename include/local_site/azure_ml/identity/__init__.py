"""Who may call: the token endpoint of an AD FS authority, and the tokens that it signs."""
