"""Alembic's way to a connection: :func:`alocc.serving.database.migrate` gives it, inside its transaction."""

from alembic import context

from alocc.serving.tables import METADATA, VERSION_TABLE

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=METADATA,
    version_table=VERSION_TABLE,
    transactional_ddl=True,
    render_as_batch=True,  # SQLite changes tables by making them anew
)
context.run_migrations()
