"""What people write: marks, lists, judgements, saved questions, in `user.db`; and questions kept for a measurement."""
