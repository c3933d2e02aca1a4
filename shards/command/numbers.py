"""Numbers for people: counts, sizes and times as messages and reports show them."""


def short(number: float) -> str:
    """1234567 -> 1.2 M."""
    for unit in ("", "k", "M", "G", "T"):
        if number < 1000 or unit == "T":
            return f"{number:.0f}" if not unit else f"{number:.1f} {unit}"
        number /= 1000
    raise AssertionError("unreachable")


def size(num_bytes: float) -> str:
    """Bytes for people: 12.2 MB."""
    for unit in ("bytes", "kB", "MB", "GB", "TB"):
        if num_bytes < 1000 or unit == "TB":
            return f"{num_bytes:.0f} {unit}" if unit == "bytes" else f"{num_bytes:.1f} {unit}"
        num_bytes /= 1000
    raise AssertionError("unreachable")


def clock(seconds: float) -> str:
    """Seconds as 1:02:03 or 2:03."""
    hours, rest = divmod(round(seconds), 3600)
    return f"{hours}:{rest // 60:02}:{rest % 60:02}" if hours else f"{rest // 60}:{rest % 60:02}"
