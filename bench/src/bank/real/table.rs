//! The file of transactions: fields separated by `;`, text in double quotes, a header that names columns.
//!
//! Everything that is wrong is said with its line and column. Amounts are read digit by digit, as
//! hundredths; no number with a fraction is ever made of them.

use std::collections::BTreeMap;

use anyhow::{Context as _, bail, ensure};

use super::module::{Kind, Transaction};

/// The columns that are read, by their name in the header.
const COLUMNS: [&str; 9] = [
    "trans_id",
    "account_id",
    "date",
    "type",
    "operation",
    "amount",
    "k_symbol",
    "bank",
    "account",
];

/// Parses a whole file.
///
/// # Errors
/// The first thing that is wrong with it.
pub fn parse(bytes: &[u8]) -> anyhow::Result<Vec<Transaction>> {
    let mut lines = (1..).zip(split_lines(bytes));
    let (_, header) = lines.next().context("line 1: the file is empty, a header is needed")?;
    let header = Header::parse(header)?;
    let mut seen = BTreeMap::new();
    let mut transactions = Vec::new();
    for (number, line) in lines {
        let row = Row { header: &header, number, fields: fields(number, line)? };
        row.check_width()?;
        let transaction = row.transaction()?;
        if let Some(first) = seen.insert(transaction.id, number) {
            let what = format!("{} is on line {first} already", transaction.id);
            return Err(row.wrong("trans_id", &what));
        }
        transactions.push(transaction);
    }
    Ok(transactions)
}

/// Without their ends, which are LF or CRLF; an end after the last line is not the start of another.
fn split_lines(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    let body = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    let lines = body.split(|&byte| byte == b'\n');
    lines.map(|line| line.strip_suffix(b"\r").unwrap_or(line)).take_while(|_| !bytes.is_empty())
}

fn fields(number: u64, line: &[u8]) -> anyhow::Result<Vec<String>> {
    let line = std::str::from_utf8(line).map_err(|error| {
        anyhow::anyhow!("line {number}, byte {}: not UTF-8", error.valid_up_to() + 1)
    })?;
    let mut fields = Vec::new();
    let mut rest = line;
    loop {
        let (field, after) = match rest.strip_prefix('"') {
            None => {
                let end = rest.find(';').unwrap_or(rest.len());
                let (field, after) = rest.split_at(end);
                ensure!(
                    !field.contains('"'),
                    "line {number}, column {}: a quote inside of an unquoted field",
                    fields.len() + 1
                );
                (field.to_owned(), after)
            }
            Some(quoted) => unquote(quoted).with_context(|| {
                format!("line {number}, column {}: the quote is not closed", fields.len() + 1)
            })?,
        };
        fields.push(field);
        match after.strip_prefix(';') {
            Some(next) => rest = next,
            None if after.is_empty() => return Ok(fields),
            None => {
                bail!("line {number}, column {}: `{after}` follows the closing quote", fields.len())
            }
        }
    }
}

/// The text up to the closing quote, and what follows it; two quotes stand for one.
fn unquote(quoted: &str) -> Option<(String, &str)> {
    let mut text = String::new();
    let mut rest = quoted;
    loop {
        let (before, after) = rest.split_once('"')?;
        text.push_str(before);
        match after.strip_prefix('"') {
            Some(more) => {
                text.push('"');
                rest = more;
            }
            None => return Some((text, after)),
        }
    }
}

/// Which column is where.
struct Header {
    places: BTreeMap<&'static str, usize>,
    width: usize,
}

impl Header {
    fn parse(line: &[u8]) -> anyhow::Result<Self> {
        let names = fields(1, line)?;
        let mut places = BTreeMap::new();
        for column in COLUMNS {
            let place = names.iter().position(|name| name == column).with_context(|| {
                format!("line 1: the column `{column}` is missing; there are {}", names.join(", "))
            })?;
            places.insert(column, place);
        }
        Ok(Self { places, width: names.len() })
    }
}

struct Row<'h> {
    header: &'h Header,
    number: u64,
    fields: Vec<String>,
}

impl Row<'_> {
    fn check_width(&self) -> anyhow::Result<()> {
        let (found, expected) = (self.fields.len(), self.header.width);
        ensure!(
            found == expected,
            "line {}, column {}: the line has {found} fields, the header {expected}",
            self.number,
            found.min(expected) + 1
        );
        Ok(())
    }

    fn text(&self, column: &str) -> &str {
        let place = self.header.places.get(column);
        place.and_then(|&place| self.fields.get(place)).map_or("", String::as_str)
    }

    fn wrong(&self, column: &str, what: &str) -> anyhow::Error {
        let place = self.header.places.get(column).map_or(0, |place| place + 1);
        anyhow::anyhow!("line {}, column {place} (`{column}`): {what}", self.number)
    }

    fn number(&self, column: &str) -> anyhow::Result<u64> {
        let text = self.text(column);
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let number = if digits { text.parse().ok() } else { None };
        number.ok_or_else(|| self.wrong(column, &format!("`{text}` is no whole number")))
    }

    fn transaction(&self) -> anyhow::Result<Transaction> {
        let amount = hundredths(self.text("amount")).map_err(|what| self.wrong("amount", &what))?;
        let credit = match self.text("type") {
            "PRIJEM" => true,
            "VYDAJ" | "VYBER" => false,
            other => return Err(self.wrong("type", &format!("`{other}` is no known type"))),
        };
        let operation = self.text("operation");
        let kind = match (operation, credit) {
            ("PREVOD Z UCTU", true) | ("PREVOD NA UCET", false) => Kind::Remittance,
            ("VKLAD" | "", true) => Kind::Deposit,
            ("VYBER" | "VYBER KARTOU" | "", false) => Kind::Withdrawal,
            (other, _) => {
                let what = format!("`{other}` is no operation of type `{}`", self.text("type"));
                return Err(self.wrong("operation", &what));
            }
        };
        Ok(Transaction {
            id: self.number("trans_id")?,
            account: self.number("account_id")?,
            date: date(self.text("date")).map_err(|what| self.wrong("date", &what))?,
            kind,
            operation: operation.to_owned(),
            amount: if credit { amount } else { -amount },
            purpose: self.text("k_symbol").to_owned(),
            partner_bank: self.text("bank").to_owned(),
            partner_account: self.text("account").to_owned(),
        })
    }
}

/// `12`, `12.3` or `12.34` as hundredths.
fn hundredths(text: &str) -> Result<i64, String> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "00"));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(whole) || !digits(fraction) {
        return Err(format!("`{text}` is no amount such as 12.34"));
    }
    if fraction.len() > 2 {
        return Err(format!("`{text}` has more than two decimals"));
    }
    let amount = format!("{whole}{fraction:0<2}").parse::<i64>().ok();
    let amount = amount.filter(|&amount| amount <= AMOUNT_MAX);
    amount.ok_or_else(|| format!("`{text}` is more than any bank has"))
}

/// So large that no real amount is larger, so small that a million of them still add up.
const AMOUNT_MAX: i64 = 1_000_000_000_000;

/// `YYMMDD` of the last century, as `19YYMMDD`.
fn date(text: &str) -> Result<u32, String> {
    let wrong = || format!("`{text}` is no date as YYMMDD");
    if text.len() != 6 || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(wrong());
    }
    let number: u32 = text.parse().map_err(|_| wrong())?;
    let (year, month, day) = (1900 + number / 10_000, number / 100 % 100, number % 100);
    let leap = year % 4 == 0 && year != 1900;
    let days = match month {
        2 if leap => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        1..=12 => 31,
        _ => 0,
    };
    if (1..=days).contains(&day) { Ok(19_000_000 + number) } else { Err(wrong()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: &str = "\"trans_id\";\"account_id\";\"date\";\"type\";\"operation\";\"amount\";\
                          \"balance\";\"k_symbol\";\"bank\";\"account\"";

    fn parse_rows(rows: &str) -> anyhow::Result<Vec<Transaction>> {
        parse(format!("{HEADER}\r\n{rows}").as_bytes())
    }

    #[test]
    fn rows_become_transactions() {
        let rows = "1;2;930101;\"PRIJEM\";\"VKLAD\";700.00;700.00;\"\";;\r\n\
                    3;2;930228;\"VYDAJ\";\"PREVOD NA UCET\";14.6;0.0;\"SIPO\";\"YZ\";87144583\r\n\
                    4;5;940131;\"VYBER\";\"\";9;0.0;\"S\"\"L;Z\";;\r\n";
        let found = parse_rows(rows).unwrap();
        let brief: Vec<_> =
            found.iter().map(|it| (it.id, it.account, it.date, it.kind, it.amount)).collect();
        assert_eq!(
            brief,
            [
                (1, 2, 19_930_101, Kind::Deposit, 70_000),
                (3, 2, 19_930_228, Kind::Remittance, -1_460),
                (4, 5, 19_940_131, Kind::Withdrawal, -900),
            ]
        );
        assert_eq!((&*found[1].partner_bank, &*found[1].partner_account), ("YZ", "87144583"));
        assert_eq!(found[2].purpose, "S\"L;Z");
        assert!(parse_rows("").unwrap().is_empty(), "a header alone is a file without rows");
    }

    #[test]
    fn what_is_wrong_is_said_with_line_and_column() {
        let good = "1;2;930101;\"PRIJEM\";\"VKLAD\";700.00;700.00;\"\";;";
        for (row, expected) in [
            ("", "line 3, column 2: the line has 1 fields, the header 10"),
            ("3;2;930101;\"PRIJEM\";\"VKLAD\"", "line 3, column 6: the line has 5 fields"),
            ("3;2;930101;\"PRIJEM\";\"VKLAD\";1;1;;;;", "line 3, column 11: the line has 11"),
            ("x;2;930101;\"PRIJEM\";\"VKLAD\";1;1;;;", "line 3, column 1 (`trans_id`): `x`"),
            ("1;2;930101;\"PRIJEM\";\"VKLAD\";1;1;;;", "(`trans_id`): 1 is on line 2 already"),
            ("3;-2;930101;\"PRIJEM\";\"VKLAD\";1;1;;;", "column 2 (`account_id`): `-2` is no"),
            ("3;2;930229;\"PRIJEM\";\"VKLAD\";1;1;;;", "column 3 (`date`): `930229` is no date"),
            ("3;2;1993-1;\"PRIJEM\";\"VKLAD\";1;1;;;", "column 3 (`date`)"),
            ("3;2;930101;\"GIFT\";\"VKLAD\";1;1;;;", "column 4 (`type`): `GIFT` is no known type"),
            ("3;2;930101;\"VYDAJ\";\"VKLAD\";1;1;;;", "column 5 (`operation`): `VKLAD` is no"),
            ("3;2;930101;\"PRIJEM\";\"VKLAD\";1.234;1;;;", "(`amount`): `1.234` has more than two"),
            ("3;2;930101;\"PRIJEM\";\"VKLAD\";-1;1;;;", "column 6 (`amount`): `-1` is no amount"),
            ("3;2;930101;\"PRIJEM\";\"VKLAD\";1e3;1;;;", "`1e3` is no amount"),
            ("3;2;930101;\"PRIJEM\";\"VKLAD\";.5;1;;;", "`.5` is no amount"),
            ("3;2;930101;\"PRIJEM\";\"VKLAD\";99999999999999999999;1;;;", "than any bank has"),
            ("3;2;930101;\"PRIJEM;1;1;;;", "line 3, column 4: the quote is not closed"),
            ("3;2;930101;\"PRIJEM\"x;\"VKLAD\";1;1;;;", "column 4: `x;"),
            ("3;2;93\"0101;\"PRIJEM\";\"VKLAD\";1;1;;;", "line 3, column 3: a quote inside"),
        ] {
            let error = parse_rows(&format!("{good}\r\n{row}\r\n")).unwrap_err().to_string();
            assert!(error.contains(expected), "{row:?}: {error}");
        }
        let error = parse(b"").unwrap_err().to_string();
        assert!(error.contains("line 1"), "{error}");
        let error = parse(HEADER.replace("amount", "sum").as_bytes()).unwrap_err().to_string();
        assert!(error.contains("line 1: the column `amount` is missing"), "{error}");
        let mut bytes = format!("{HEADER}\n{good}\n3;2;").into_bytes();
        bytes.push(0xff);
        let error = parse(&bytes).unwrap_err().to_string();
        assert!(error.contains("line 3, byte 5: not UTF-8"), "{error}");
    }
}
