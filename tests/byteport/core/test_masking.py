"""What is masked, and what is left alone. Pure: nothing stands in for anything."""

import pytest

from byteport.core.masking import mask_literals, mask_secrets

SECRET = "hunter2hunter2hunter2"
PRIVATE_KEY = f"-----BEGIN RSA PRIVATE KEY-----\n{SECRET}\n{SECRET}\n-----END RSA PRIVATE KEY-----"


@pytest.mark.parametrize(
    "text",
    [
        f"password={SECRET}",
        f"DB_PASSWORD: {SECRET}",
        f"PGPASSWORD='{SECRET} with spaces'",
        f'{{"api_key": "{SECRET}", "n": 1}}',
        f'"{{\\"client_secret\\": \\"{SECRET}\\"}}"',
        f'password="{SECRET}',
        f"aws_secret_access_key = {SECRET}",
        f"curl --token {SECRET} https://example.com",
        f"mysqldump --db-password {SECRET}",
        f"Authorization: Bearer {SECRET}",
        f"authorization: Basic {SECRET}",
        f'-H "Authorization: token {SECRET}"',
        f"sent with bearer {SECRET} to it",
        f"https://example.com/?X-Amz-Signature={SECRET}&x=1",
        f"postgres://byteport:{SECRET}@db.example.com/app",
        f"https://{SECRET}@github.com/acme/app.git",
        f"amqp://user:p@{SECRET}@mq/",
        f"ghp_{SECRET}",
        f"xoxb-{SECRET}",
        f"eyJ{SECRET}.eyJ{SECRET}.{SECRET}",
        PRIVATE_KEY,
        PRIVATE_KEY.partition("-----END")[0],
    ],
)
def test_a_credential_is_masked(text):
    masked = mask_secrets(f"before {text}\nafter")
    assert "hunter2" not in masked
    assert "***" in masked
    assert masked.startswith("before ")


def test_an_aws_key_id_is_masked():
    assert mask_secrets("key AKIAIOSFODNN7EXAMPLE used") == "key *** used"


def test_what_stands_around_a_credential_is_kept():
    assert mask_secrets(f"user=ann password={SECRET} host=db") == "user=ann password=*** host=db"
    assert mask_secrets(f"postgres://a:{SECRET}@db/app") == "postgres://***@db/app"
    assert mask_secrets(PRIVATE_KEY + "\nnext line") == "***\nnext line"


@pytest.mark.parametrize(
    "text",
    [
        "/var on web-1 is 91.2 % full (36.5 GB of 40.0 GB; ext4 on /dev/vda2).",
        "du -xh --max-depth=2 -- /var | sort -rh | head -25",
        "https://example.com/a@b is no login",
        "mail ops@example.com",
        "the password was changed by a person",
        "basic authentication is required",
        "image registry.example.com/shop/cart@sha256:0123abcd",
    ],
)
def test_what_is_no_credential_is_left_alone(text):
    assert mask_secrets(text) == text


@pytest.mark.parametrize("part", ["password", "password=", "://a", "eyJaaaaaaaa.", "a", '\\"', "--"])
def test_a_long_text_of_near_misses_neither_hangs_it_nor_loses_its_end(part):
    assert mask_secrets(part * (60_000 // len(part)) + " the end").endswith("the end")


@pytest.mark.parametrize(
    ("statement", "shown"),
    [
        ("SELECT * FROM t1 WHERE a = 'x''y' AND b = 12.5", "SELECT * FROM t1 WHERE a = ? AND b = ?"),
        ("SELECT E'it\\'s', $$a 'b' $$, $x$ c $$ $x$, 0xff, 1e5", "SELECT ?, ?, ?, ?, ?"),
        ('SELECT "it\'s 5" FROM "t 2" WHERE a = $1', 'SELECT "it\'s 5" FROM "t 2" WHERE a = $1'),
        ("/* app:shop's job 7 */ INSERT INTO t VALUES ('cut off", "/* app:shop's job 7 */ INSERT INTO t VALUES (?"),
        ("SELECT 1 -- that's it\n, 'b'", "SELECT ? -- that's it\n, ?"),
    ],
)
def test_an_sql_statement_is_shown_without_its_values(statement, shown):
    assert mask_literals(statement) == shown


@pytest.mark.parametrize("part", ["'", '"', "$a", "/*", "\\", "a'", "--", "$$"])
def test_a_long_statement_of_near_misses_does_not_hang_it(part):
    assert len(mask_literals(part * 100_000)) <= 100_000 * len(part)
