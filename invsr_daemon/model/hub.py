from pathlib import Path
def resolve(n): return Path(n)
