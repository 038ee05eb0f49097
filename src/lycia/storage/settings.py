"""Single values of a coordinator's database. Each function works inside a `Database.write` or `read`."""

from sqlalchemy import Connection, insert, select, update

from lycia.storage.tables import SETTINGS


def setting(connection: Connection, key: str) -> str | None:
    """The value that was set under `key`; None if there is none."""
    value: str | None = connection.scalar(select(SETTINGS.c.value).where(SETTINGS.c.key == key))
    return value


def set_setting(connection: Connection, key: str, value: str) -> None:
    """Set the value under `key`."""
    changed = connection.execute(update(SETTINGS).where(SETTINGS.c.key == key).values(value=value))
    if not changed.rowcount:
        connection.execute(insert(SETTINGS).values(key=key, value=value))
