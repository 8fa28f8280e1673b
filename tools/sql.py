"""Asks a database through its own driver, behind the app's back: what tests and benchmarks check the app against."""

import sqlite3
from contextlib import closing

import psycopg


def run_sql(url: str, sql: str) -> list[tuple]:
    """The rows that one statement gives; none if it gives none. It is committed."""
    if url.startswith("sqlite:///"):
        with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as db, db:
            return db.execute(sql).fetchall()
    with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as db:
        found = db.execute(sql)
        return found.fetchall() if found.description else []
