//! When APGD looks back at its progress: a pure function of the number of steps.

/// For each step, the length in steps of the window that a check after it closes; `None` where there is no
/// check.
///
/// Windows start at 22 % of the steps and shrink by 3 % each time down to 6 %, all truncated and at least one
/// step (paper section D). The truncations are of 64-bit products, like the reference's.
pub(crate) fn check_windows(steps: usize) -> Vec<Option<usize>> {
    let share = |part: f64| ((part * steps as f64) as usize).max(1);
    let (mut window, shortest, shrink) = (share(0.22), share(0.06), share(0.03));
    let mut steps_in_window = 0;
    let close_if_full = |_| {
        steps_in_window += 1;
        if steps_in_window < window {
            return None;
        }
        let closed = window;
        steps_in_window = 0;
        window = window.saturating_sub(shrink).max(shortest);
        Some(closed)
    };
    (0..steps).map(close_if_full).collect()
}

#[cfg(test)]
mod tests {
    use super::check_windows;

    fn checked_after(steps: usize) -> Vec<usize> {
        let windows = check_windows(steps);
        (1..=steps).filter(|step| windows[step - 1].is_some()).collect()
    }

    #[test]
    fn seven_steps_are_checked_after_every_step() {
        assert_eq!(check_windows(7), vec![Some(1); 7]);
    }

    #[test]
    fn ten_steps_are_checked_from_the_second_on() {
        assert_eq!(checked_after(10), (2..=10).collect::<Vec<_>>());
        assert_eq!(check_windows(10)[1], Some(2));
    }

    #[test]
    fn hundred_steps_follow_the_published_checkpoints() {
        // 22, then 19, 16, 13, 10, 7, and 6 from then on.
        let expected = [22, 41, 57, 70, 80, 87, 93, 99];
        assert_eq!(checked_after(100), expected);
    }

    #[test]
    fn a_window_is_as_long_as_the_steps_since_the_last_check() {
        for steps in 1..=300 {
            let mut since_last_check = 0;
            for window in check_windows(steps) {
                since_last_check += 1;
                if let Some(length) = window {
                    assert_eq!(length, since_last_check, "{steps} steps");
                    since_last_check = 0;
                }
            }
        }
    }
}
