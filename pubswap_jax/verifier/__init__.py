"""Judges answers: string rules first, then sympy in killable worker processes. Imports no other folder of this package."""
