"""Is an answer right? Strings first, then sympy in processes that can be killed. This folder imports nothing else of ours."""
