"""stub"""


def paragraph(name: str) -> str:
    return name
