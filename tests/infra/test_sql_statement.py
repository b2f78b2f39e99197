"""What the HTTP interface reads out of SQL, as tables."""

import pytest

from infra.clickhouse_errors import QueryError
from infra.sql_statement import Insert, Undecided, insert, statement

NOT, MORE = Undecided.NOT_AN_INSERT, Undecided.MORE_BYTES_NEEDED

#   text                                                        statement                         format         data
INSERTS = [
    ("INSERT INTO t FORMAT CSV\n1,2", "INSERT INTO t", "CSV", "1,2"),
    ("insert into t format JSONEachRow {}", "insert into t", "JSONEachRow", "{}"),
    ("INSERT INTO t FORMAT TSV  \r\n\n1", "INSERT INTO t", "TSV", "\n1"),
    ("INSERT INTO t (a, `b)`) VALUES (1, 'x')", "INSERT INTO t (a, `b)`)", "Values", " (1, 'x')"),
    ("INSERT INTO t(`values`)VALUES(1)", "INSERT INTO t(`values`)", "Values", "(1)"),
    ("/* FORMAT */ -- VALUES\nINSERT INTO t FORMAT CSV\nx", "/* FORMAT */ -- VALUES\nINSERT INTO t", "CSV", "x"),
    ("INSERT INTO values VALUES (1)", "INSERT INTO values", "Values", " (1)"),
    ("INSERT INTO TABLE d . format FORMAT CSV\n1", "INSERT INTO TABLE d . format", "CSV", "1"),
    ("INSERT INTO `a ' b` FORMAT CSV\n1", "INSERT INTO `a ' b`", "CSV", "1"),
    ("INSERT INTO FUNCTION file('x') FORMAT CSV\n1", "INSERT INTO FUNCTION file('x')", "CSV", "1"),
    ("INSERT INTO t SETTINGS a = 'FORMAT x', b = 1 FORMAT CSV\n1", "INSERT INTO t SETTINGS a = 'FORMAT x', b = 1", "CSV", "1"),
    ("INSERT INTO t SETTINGS a='it\\'s' VALUES (2)", "INSERT INTO t SETTINGS a='it\\'s'", "Values", " (2)"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "sql", "input_format", "data"), INSERTS)
def test_the_data_of_an_insert_are_found(text: str, sql: str, input_format: str, data: str) -> None:
    head = text.encode()
    found = insert(head, complete=True)
    assert isinstance(found, Insert)
    assert (found.sql.decode(), found.input_format, head[found.data_start :].decode()) == (sql, input_format, data)


@pytest.mark.parametrize(("text", "sql", "input_format", "data"), INSERTS)
def test_an_insert_is_found_in_any_piece_of_its_start_or_not_yet(text: str, sql: str, input_format: str, data: str) -> None:
    """However the network cuts it, the answer is the right one or `more`, never a wrong one."""
    head = text.encode()
    for length in range(len(head)):
        found = insert(head[:length], complete=False)
        if isinstance(found, Insert):
            assert (found.sql.decode(), found.input_format) == (sql, input_format)
            assert head[found.data_start :].decode() == data
        else:
            assert found is MORE


@pytest.mark.parametrize(
    ("text", "complete", "expected"),
    [
        ("SELECT 1", True, NOT),
        ("SELECT 'INSERT INTO t VALUES'", True, NOT),
        ("INSERT INTO t SELECT 1", True, NOT),
        ("INSERT INTO t (a) WITH x AS (SELECT 1) SELECT * FROM x", True, NOT),
        ("INSERT INTO t FROM INFILE 'x' FORMAT CSV", True, NOT),
        ("CREATE TABLE t (a Int8)", True, NOT),
        ("INSERT INTO t", True, NOT),
        ("INSERT INTO t FORMAT", True, NOT),
        ("", True, NOT),
        ("", False, MORE),
        ("   ", False, MORE),
        ("INS", False, MORE),
        ("SELEC", False, MORE),
        ("SELECT ", False, NOT),
    ],
)  # fmt: skip
def test_what_is_no_insert_with_data(text: str, complete: bool, expected: Undecided) -> None:
    assert insert(text.encode(), complete=complete) is expected


#   text                                             sql without FORMAT             keyword    format   result  totals
STATEMENTS = [
    ("SELECT 1", "SELECT 1", "SELECT", None, True, False),
    ("select 1 format JSON;", "select 1", "SELECT", "JSON", True, False),
    ("SELECT 1\nFORMAT CSV SETTINGS max_threads = 1", "SELECT 1\n SETTINGS max_threads = 1", "SELECT", "CSV", True, False),
    ("SELECT format('{}', 1) AS format FROM t", "SELECT format('{}', 1) AS format FROM t", "SELECT", None, True, False),
    ("SELECT 'x FORMAT CSV'", "SELECT 'x FORMAT CSV'", "SELECT", None, True, False),
    ("SELECT ';' -- ; FORMAT CSV", "SELECT ';' -- ; FORMAT CSV", "SELECT", None, True, False),
    ("(SELECT 1) UNION ALL (SELECT 2)", "(SELECT 1) UNION ALL (SELECT 2)", "(", None, True, False),
    ("SELECT a, count() FROM t GROUP BY a WITH TOTALS", "SELECT a, count() FROM t GROUP BY a WITH TOTALS", "SELECT", None, True, True),
    ("SHOW TABLES FORMAT CSV", "SHOW TABLES", "SHOW", "CSV", True, False),
    ("CREATE TABLE t (a Int8) ENGINE = Memory", "CREATE TABLE t (a Int8) ENGINE = Memory", "CREATE", None, False, False),
    ("WITH 1 AS x SELECT x", "WITH 1 AS x SELECT x", "WITH", None, True, False),
    ("WITH 1 AS x INSERT INTO t SELECT x", "WITH 1 AS x INSERT INTO t SELECT x", "INSERT", None, False, False),
    ("SET max_threads = 1", "SET max_threads = 1", "SET", None, False, False),
]  # fmt: skip


@pytest.mark.parametrize(("text", "sql", "keyword", "output_format", "has_result", "has_totals"), STATEMENTS)
def test_a_statement(text: str, sql: str, keyword: str, output_format: str | None, has_result: bool, has_totals: bool) -> None:
    found = statement(text.encode())
    assert (found.sql.decode(), found.keyword, found.output_format) == (sql, keyword, output_format)
    assert (found.has_result, found.has_totals) == (has_result, has_totals)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", 62),
        ("-- nothing", 62),
        (";", 62),
        ("SELECT 1; SELECT 2", 62),
        ("SELECT 1 INTO OUTFILE '/etc/x'", 1),
        ("INSERT INTO t FROM INFILE '/etc/passwd' FORMAT CSV", 1),
    ],
)  # fmt: skip
def test_a_statement_that_is_refused(text: str, code: int) -> None:
    with pytest.raises(QueryError) as refused:
        statement(text.encode())
    assert refused.value.code == code
    assert str(refused.value).startswith(f"Code: {code}. DB::Exception: ")
