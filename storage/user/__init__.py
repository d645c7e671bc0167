"""What people write: marks, lists, judgements, saved questions and removed paths, in `user.db`."""
