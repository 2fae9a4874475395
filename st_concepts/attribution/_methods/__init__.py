"""Attribution methods, one idea a file; each registers what it defines."""
