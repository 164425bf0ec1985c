use std::fmt::{self, Display, Formatter};

use anyhow::ensure;

/// How many requests were sent, how many were counted, and that they are equal.
pub struct Statement {
    pub history: u64,
    pub copies: u64,
    /// Live ones of earlier starts.
    pub earlier: u64,
    pub live: u64,
    pub counted: u64,
}

impl Statement {
    fn sent(&self) -> u64 {
        self.history + self.earlier + self.live
    }

    pub fn agrees(&self) -> anyhow::Result<()> {
        let (sent, counted) = (self.sent(), self.counted);
        ensure!(sent == counted, "{sent} requests were sent, but {counted} are counted; the console's pipeline page names the hours");
        Ok(())
    }
}

impl Display for Statement {
    fn fmt(&self, f: &mut Formatter) -> fmt::Result {
        let [sent, counted, difference] = [self.sent(), self.counted, self.sent().abs_diff(self.counted)].map(grouped);
        let [history, earlier, live, copies] = [self.history, self.earlier, self.live, self.copies].map(grouped);
        writeln!(
            f,
            "  Requests sent     {sent:>9}  = {history} of history + {earlier} live before + {live} live now   ({copies} copies more on the wire)"
        )?;
        writeln!(f, "  Requests counted  {counted:>9}")?;
        writeln!(f, "  Difference        {difference:>9}")?;
        if self.counted < self.sent() {
            writeln!(
                f,
                "  An earlier start was killed before its gateway had told of these. The console's pipeline page names their hours."
            )?;
        }
        Ok(())
    }
}

/// 1234567 -> 1,234,567
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
