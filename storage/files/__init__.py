"""Files and processes of the operating system: permissions, file systems, names, limits."""
