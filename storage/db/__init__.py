"""library.db: schema, migrations, the one writer's catalog, and readers' snapshots."""
