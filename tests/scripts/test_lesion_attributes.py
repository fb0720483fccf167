"""The spreadsheet's entry errors never reach the counts, and the vocabulary holds what the real file says."""

import lesion_attributes
import openpyxl
import pytest
from lesion_attributes import COLUMNS, SHEETS, SpreadsheetError, as_counts, code, find_spreadsheet, read
from typer.testing import CliRunner

from zerotumor.lesion_table import COUNTS

HEADER = ("ID", *(f"{i}) column" for i in range(1, len(COLUMNS) + 1)), "report")
GOOD = (2, 1, 1, 1, 1, 1, 1)


def write(path, rows=(), *, header=HEADER, titles=tuple(SHEETS)):
    """A spreadsheet laid out as the published one: `rows` in the sheet of renal cysts, one good row in the others."""
    book = openpyxl.Workbook()
    book.remove(book.active)
    for title in titles:
        sheet = book.create_sheet(title)
        sheet.append(header)
        for row in rows if SHEETS[title][0] == "renal cyst" else [GOOD]:
            sheet.append(("case", *row, "a report"))
    book.save(path)
    return path


def cysts(path):
    return next(kind for kind in read(path) if kind.name == "renal cyst")


@pytest.mark.parametrize(
    ("cell", "value"),
    [(1, "a"), (2, "b"), ("2", "b"), (" 1 ", "a"), (2.0, "b"), (3, None), (0, None), (12, None), ("1、2", None),
     ("12", None), ("", None), (None, None), (1.5, None), ("²", None), (-1, None)],
)  # fmt: skip
def test_only_a_code_of_the_column_counts(cell, value):
    assert code(cell, ("a", "b")) == value


def test_wrong_cells_are_left_out_and_listed_and_the_rest_of_the_row_counts(tmp_path):
    rows = [GOOD, (2, "1、2", 12, 1, 1, 1, 4), ("", 2, 2, 4, 1, 1, 2)]
    kind = cysts(write(tmp_path / "a.xlsx", rows))
    assert len(kind.lesions) == 3
    assert dict(kind.counts("shape")) == {"round-like": 1, "irregular": 1}
    assert dict(kind.counts("location")) == {"left kidney": 1, "right kidney": 1}
    assert dict(kind.counts("density")) == {"hypodense": 2}  # a fourth density exists for lungs only
    assert dict(kind.counts("relation")) == {"not-close": 1, "close": 1}
    assert [entry.split(": ")[1].split(" = ")[0] for entry in kind.refused] == [
        "location", "shape", "relation", "enhancement", "density",
    ]  # fmt: skip


def test_a_blank_row_is_no_lesion(tmp_path):
    kind = cysts(write(tmp_path / "a.xlsx", [GOOD, ("",) * 7, (None,) * 7]))
    assert (len(kind.lesions), kind.blank_rows, kind.refused) == (1, 2, [])


def test_lung_has_a_fourth_density(tmp_path):
    book = openpyxl.load_workbook(write(tmp_path / "a.xlsx"))
    book["肺癌"].append(("case", 1, 5, 2, 4, 2, 2, 2))
    book.save(tmp_path / "b.xlsx")
    lung = read(tmp_path / "b.xlsx")[-1]
    assert dict(lung.counts("density")) == {"hypodense": 1, "mixed": 1}
    assert dict(lung.counts("location")) == {"left upper lobe": 1, "right lower lobe": 1}


def test_a_file_that_is_not_the_published_one_is_refused_in_a_sentence(tmp_path):
    (tmp_path / "text.xlsx").write_text("not a spreadsheet")
    with pytest.raises(SpreadsheetError, match="cannot be read"):
        read(tmp_path / "text.xlsx")
    with pytest.raises(SpreadsheetError, match="has no sheet 肺癌"):
        read(write(tmp_path / "a.xlsx", titles=tuple(SHEETS)[:-1]))
    with pytest.raises(SpreadsheetError, match="does not begin with the columns"):
        read(write(tmp_path / "b.xlsx", header=("ID", "x")))
    with pytest.raises(SpreadsheetError, match="there is no spreadsheet"):
        find_spreadsheet(tmp_path / "missing.xlsx")


def test_the_spreadsheet_is_found_in_a_data_folder(tmp_path, monkeypatch):
    file = tmp_path / lesion_attributes.FILE
    file.parent.mkdir()
    write(file)
    assert find_spreadsheet(tmp_path) == file
    assert find_spreadsheet(file) == file
    monkeypatch.setenv("ZEROTUMOR_DATA", str(tmp_path))
    assert find_spreadsheet(None) == file


def test_command_prints_the_table_or_one_sentence(tmp_path):
    result = CliRunner().invoke(lesion_attributes.app, [str(write(tmp_path / "a.xlsx", [GOOD]))])
    assert result.exit_code == 0
    assert '"renal cyst": ((1, 0), (1, 0, 0, 0), (1, 0), (0, 1), (1, 0), (1, 0)),' in result.output
    assert "OTHER counts" in result.output
    result = CliRunner().invoke(lesion_attributes.app, [str(tmp_path / "missing.xlsx")])
    assert result.exit_code == 1
    assert "give its path" in result.output


def test_the_vocabulary_holds_the_published_counts(data_dir):
    kinds = read(find_spreadsheet(data_dir))
    assert as_counts(kinds) == COUNTS
    assert [len(kind.lesions) for kind in kinds] == [162, 67, 41, 37, 59, 43, 22]
    assert sum(kind.blank_rows for kind in kinds) == 1
    assert len([entry for kind in kinds for entry in kind.refused]) == 5
