"""python -m invsr_daemon"""

from .cli.main import main

main()
