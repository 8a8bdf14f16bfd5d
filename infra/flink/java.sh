#!/bin/sh
# Beam starts its job server with this. It is to end with the process that started it, even if that is
# killed; where there is no setpriv (it is Linux's) it must be ended by hand then.
if command -v setpriv >/dev/null; then
  exec setpriv --pdeathsig TERM java "$@"
fi
exec java "$@"
