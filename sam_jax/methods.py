"""Follow-up methods of SAM."""

__all__: list[str] = []
