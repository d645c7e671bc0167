"""Libraries on other machines, served by `vfindex serve`, as members of a question: address, connection, documents."""
