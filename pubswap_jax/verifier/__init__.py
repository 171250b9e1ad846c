"""Decides whether answers are right: string rules first, then sympy in killable worker processes. Imports no other folder."""
