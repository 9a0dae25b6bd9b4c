"""Tables and plots of many runs."""
