"""`sdv2live doctor`: whether this machine can run a show, line by line, and a rehearsal of one."""
