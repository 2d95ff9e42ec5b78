//! When a certificate is renewed, and when a failed attempt is repeated.

use super::order::Failure;
use std::time::Duration;
use uproar_tls::Pair;

/// The pauses after attempts that the authority has counted. Let's Encrypt allows five failures per hour and domain.
const REFUSED_PAUSES: (Duration, Duration) = (Duration::from_secs(3600), Duration::from_secs(12 * 3600));
/// The pauses after attempts that have not reached the authority: a machine may start before its network.
const UNREACHABLE_PAUSES: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(3600));

/// When the certificate is renewed, in seconds since the Unix epoch: after two thirds of its lifetime.
pub(super) fn renewal_unix_s(pair: &Pair) -> u64 {
    let lifetime_s = pair.expires_unix_s().saturating_sub(pair.valid_from_unix_s());
    pair.valid_from_unix_s() + lifetime_s / 3 * 2
}

/// How long to wait after the last of so many failures in a row. `random`: from 0 to 1, so that servers which failed at
/// the same time don't come back at the same time.
pub(super) fn pause(failure: &Failure, failures: u32, random: f64) -> Duration {
    let (first, longest) = match failure {
        Failure::Unreachable(_) => UNREACHABLE_PAUSES,
        Failure::Refused(_) => REFUSED_PAUSES,
    };
    let pause = first.saturating_mul(1 << failures.saturating_sub(1).min(10)).min(longest);
    pause.mul_f64(1.0 + random / 4.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_bound() {
        let refused = Failure::Refused(String::new());
        let unreachable = Failure::Unreachable(String::new());
        let minutes = |failure, failures| pause(failure, failures, 0.0).as_secs() / 60;
        assert_eq!([1, 2, 3, 4, 5, 99].map(|n| minutes(&refused, n)), [60, 120, 240, 480, 720, 720]);
        assert_eq!([1, 2, 3, 6, 7, 99].map(|n| minutes(&unreachable, n)), [1, 2, 4, 32, 60, 60]);
        assert_eq!(pause(&refused, 1, 1.0), Duration::from_secs(75 * 60));
    }
}
