"""Where units are processed: in this process, or by Ray workers on one machine or many."""
