"""python -m invsr_daemon"""

from .cli import main

main()
