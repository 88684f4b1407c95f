//! Measures one phase: latencies, CPU, and bytes that reached the disk.

use std::fs;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use crate::report::{Latency, Outcome};

/// Latencies in nanoseconds, three digits.
#[derive(Clone, Debug)]
pub struct Latencies {
    histogram: Histogram<u64>,
}

impl Default for Latencies {
    fn default() -> Self {
        // Grows as needed: nobody knows beforehand how long the longest takes.
        Self { histogram: Histogram::new(3).expect("three digits are fine") }
    }
}

impl Latencies {
    /// Adds one.
    pub fn record(&mut self, latency: Duration) {
        let nanos = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX);
        self.histogram.record(nanos).expect("a histogram that grows takes everything");
    }

    /// Adds those of another thread.
    pub fn merge(&mut self, other: &Self) {
        self.histogram.add(&other.histogram).expect("a histogram that grows takes everything");
    }

    /// How many were recorded.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.histogram.len()
    }

    /// The percentiles of the document.
    #[must_use]
    pub fn summary(&self) -> Latency {
        let at = |quantile| micros(self.histogram.value_at_quantile(quantile));
        Latency {
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
            p9999: at(0.9999),
            max: micros(self.histogram.max()),
        }
    }
}

/// Microseconds with one digit behind the point for short ones.
#[allow(clippy::cast_precision_loss, reason = "three digits were kept")]
fn micros(nanos: u64) -> f64 {
    if nanos < 10_000 { nanos as f64 / 1e3 } else { (nanos / 100) as f64 / 10.0 }
}

/// A phase that is being measured.
#[derive(Debug)]
pub struct Meter {
    started_at: Instant,
    before: Usage,
}

impl Meter {
    /// Starts now.
    #[must_use]
    pub fn start() -> Self {
        Self { before: Usage::now(), started_at: Instant::now() }
    }

    /// Ends now: `operations` were completed durably, as `durability` says.
    #[must_use]
    pub fn finish(
        self,
        system: &str,
        phase: &str,
        durability: &str,
        operations: u64,
        latencies: &Latencies,
    ) -> Outcome {
        let seconds = self.started_at.elapsed().as_secs_f64();
        let used = Usage::now().since(self.before);
        #[allow(clippy::cast_precision_loss, reason = "nobody counts to 2^53")]
        let per_second = if seconds > 0.0 { operations as f64 / seconds } else { 0.0 };
        Outcome {
            system: system.to_owned(),
            phase: phase.to_owned(),
            durability: durability.to_owned(),
            operations,
            seconds,
            per_second,
            latency_us: latencies.summary(),
            cpu_seconds: used.cpu_seconds,
            bytes_written: used.bytes_written,
            bytes_read: used.bytes_read,
        }
    }
}

/// What this process used since it began.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    /// CPU of all threads, in user code and in the kernel for it.
    pub cpu_seconds: f64,
    /// Bytes handed to the disk.
    pub bytes_written: u64,
    /// Bytes fetched from the disk.
    pub bytes_read: u64,
}

impl Usage {
    /// As of now; what cannot be told is zero.
    #[must_use]
    pub fn now() -> Self {
        let io = fs::read_to_string("/proc/self/io").unwrap_or_default();
        let field = |name: &str| {
            let line = io.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|value| value.trim().parse().ok()).unwrap_or(0)
        };
        Self {
            cpu_seconds: cpu_seconds(),
            bytes_written: field("write_bytes:"),
            bytes_read: field("read_bytes:"),
        }
    }

    /// What was used between `earlier` and this.
    #[must_use]
    pub fn since(self, earlier: Self) -> Self {
        Self {
            cpu_seconds: (self.cpu_seconds - earlier.cpu_seconds).max(0.0),
            bytes_written: self.bytes_written.saturating_sub(earlier.bytes_written),
            bytes_read: self.bytes_read.saturating_sub(earlier.bytes_read),
        }
    }
}

/// Main memory that this process has; what cannot be told is zero.
#[derive(Clone, Copy, Debug, Default)]
pub struct Memory {
    /// Bytes now.
    pub resident_bytes: u64,
    /// Bytes when it had most.
    pub peak_bytes: u64,
}

impl Memory {
    /// As of now.
    #[must_use]
    pub fn now() -> Self {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            let kib =
                line.and_then(|value| value.trim().trim_end_matches("kB").trim().parse().ok());
            kib.map_or(0, |kib: u64| kib << 10)
        };
        Self { resident_bytes: field("VmRSS:"), peak_bytes: field("VmHWM:") }
    }
}

fn cpu_seconds() -> f64 {
    // SAFETY: `rusage` is plain numbers, for which zeros are valid.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: `usage` is writable for the call.
    if unsafe { libc::getrusage(libc::RUSAGE_SELF, &raw mut usage) } != 0 {
        return 0.0;
    }
    #[allow(clippy::cast_precision_loss, reason = "a process does not live that long")]
    let seconds = |time: libc::timeval| time.tv_sec as f64 + time.tv_usec as f64 / 1e6;
    seconds(usage.ru_utime) + seconds(usage.ru_stime)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latencies_keep_three_digits() {
        let (mut one, mut two) = (Latencies::default(), Latencies::default());
        (1..=500).for_each(|n| one.record(Duration::from_micros(n)));
        (501..=1000).for_each(|n| two.record(Duration::from_micros(n)));
        one.merge(&two);
        assert_eq!(one.count(), 1000);
        let summary = one.summary();
        for (found, expected) in [(summary.p50, 500.0), (summary.p99, 990.0), (summary.max, 1000.0)]
        {
            assert!((found / expected - 1.0).abs() < 2e-3, "{found} is not {expected}");
        }
    }

    #[test]
    fn memory_that_was_given_back_stays_in_the_peak() {
        let before = Memory::now();
        drop(vec![1_u8; 64 << 20]);
        let after = Memory::now();
        assert!(before.resident_bytes > 0);
        assert!(after.peak_bytes >= before.resident_bytes + (60 << 20), "{before:?}, {after:?}");
    }

    #[test]
    fn usage_grows_with_work() {
        let before = Usage::now();
        let until = Instant::now() + Duration::from_millis(30);
        while Instant::now() < until {}
        let used = Usage::now().since(before);
        assert!(used.cpu_seconds > 0.005, "{used:?}");
    }
}
