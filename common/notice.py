"""What every page and report says first."""

NOTICE = "Research use only. Not a medical device; not for diagnosis or treatment."
