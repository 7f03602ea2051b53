"""The only SQL: tables, transactions, statements, and rows to domain values.

Functions take `tx`, a Connection inside a transaction of `Database.write()` (or `Database.read()` where they only
read), so that a use case decides what commits together.
"""
