"""What people write: marks, lists, judgements and saved questions, in `user.db`."""
