"""A student's first weights, made of its teacher's: which layers, then which units, then a file.

It runs once, beside the teacher. Stage two loads the file and asks for nothing else of this package.
"""
