//! Keeps one engine running: a thread that starts it, notices its death, starts it again with a
//! growing pause, and gives up with a sentence when it dies again and again.

use std::process::{Child, ExitStatus};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::sync::watch;

use crate::child::{Recipe, family, last_lines};
use crate::progress::{Event, Progress};

/// Deaths after which an engine is given up. One that answered for [`STEADY`] starts counting anew.
const DEATHS: u32 = 5;
const STEADY: Duration = Duration::from_mins(1);
/// The pause before the first restart; doubled each time.
const PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// An engine that is not ready by then is given up.
const STARTUP: Duration = Duration::from_mins(2);
const POLL: Duration = Duration::from_millis(10);
/// How soon the death of an engine that answered is noticed.
const WATCH: Duration = Duration::from_millis(50);
/// How long an engine may take to end in an orderly way.
const GRACE: Duration = Duration::from_secs(15);

/// Where an engine is in its life. `starts` counts its processes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    Starting {
        starts: u32,
    },
    Ready {
        starts: u32,
    },
    /// Down on purpose, until it is brought up again.
    Down,
    Stopped,
    Failed(String),
}

/// A started process, as a readiness check sees it.
pub struct Started<'a> {
    pub pid: i32,
    pub recipe: &'a Recipe,
    /// Where its part of the log begins.
    pub log_from: u64,
}

/// Says whether the engine answers.
pub type Ready = Box<dyn Fn(&Started<'_>) -> bool + Send>;

#[derive(Default)]
struct Wish {
    pid: Option<i32>,
    stop: bool,
    down: bool,
    /// The next end of the process was asked for, and is no death.
    asked: bool,
}

struct Shared {
    name: String,
    wish: Mutex<Wish>,
    changed: Condvar,
    state: watch::Sender<State>,
}

impl Shared {
    fn wish(&self) -> MutexGuard<'_, Wish> {
        self.wish.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub struct Keeper {
    shared: Arc<Shared>,
    stop: Signal,
    thread: Option<JoinHandle<()>>,
}

impl Keeper {
    pub fn start(name: &str, recipe: Recipe, ready: Ready, progress: Progress) -> std::io::Result<Self> {
        let shared = Arc::new(Shared {
            name: name.to_owned(),
            wish: Mutex::default(),
            changed: Condvar::new(),
            state: watch::Sender::new(State::Starting { starts: 1 }),
        });
        let stop = recipe.stop;
        let mut run = Run { shared: Arc::clone(&shared), recipe, ready, progress, starts: 0, deaths: 0 };
        // A thread of its own, and not a task: the child lives only as long as the thread that spawned it.
        let thread = std::thread::Builder::new().name(format!("keep-{name}")).spawn(move || run.keep())?;
        Ok(Self { shared, stop, thread: Some(thread) })
    }

    pub fn state(&self) -> watch::Receiver<State> {
        self.shared.state.subscribe()
    }

    pub fn pid(&self) -> Option<i32> {
        self.shared.wish().pid
    }

    /// Sends a signal to the process that runs now, and to its children if `to_family`.
    pub fn signal(&self, signal: Signal, to_family: bool) {
        // The lock is held, so that the process cannot be reaped and its number reused meanwhile.
        let wish = self.shared.wish();
        if let Some(pid) = wish.pid {
            for member in if to_family { family(pid) } else { vec![pid] } {
                let _ = kill(Pid::from_raw(member), signal);
            }
        }
    }

    /// Ends the process in an orderly way; the keeper starts the next one.
    pub fn restart(&self) {
        self.shared.wish().asked = true;
        self.signal(self.stop, false);
    }

    /// Kills the process and does not start another until [`Keeper::bring_up`].
    pub fn take_down(&self) {
        self.shared.wish().down = true;
        self.signal(Signal::SIGKILL, false);
    }

    pub fn bring_up(&self) {
        self.shared.wish().down = false;
        self.shared.changed.notify_all();
    }

    /// Asks the process to end and the keeper to stop.
    pub fn ask_to_stop(&self) {
        self.shared.wish().stop = true;
        self.shared.changed.notify_all();
        self.signal(self.stop, false);
        self.signal(Signal::SIGCONT, true);
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.ask_to_stop();
        if let Some(thread) = self.thread.take() {
            let deadline = Instant::now() + GRACE;
            while !thread.is_finished() && Instant::now() < deadline {
                std::thread::sleep(POLL);
            }
            self.signal(Signal::SIGKILL, true);
            let _ = thread.join();
        }
    }
}

struct Run {
    shared: Arc<Shared>,
    recipe: Recipe,
    ready: Ready,
    progress: Progress,
    starts: u32,
    deaths: u32,
}

impl Run {
    fn keep(&mut self) {
        loop {
            if !self.wait_until_wanted() {
                self.shared.state.send_replace(State::Stopped);
                return;
            }
            self.starts += 1;
            self.shared.state.send_replace(State::Starting { starts: self.starts });
            let started = Instant::now();
            let end = match self.recipe.spawn() {
                Ok((child, log_from)) => self.attend(child, log_from, started),
                Err(error) => End::Died(format!("it cannot be started: {error}")),
            };
            let given_up = match end {
                End::Asked => None,
                End::Died(reason) => self.note_death(&reason),
                End::NeverReady => Some(self.sentence(&format!("did not answer within {} s of its start", STARTUP.as_secs()))),
            };
            if let Some(sentence) = given_up {
                self.progress.send(&self.shared.name, Event::Failed(sentence.clone()));
                self.shared.state.send_replace(State::Failed(sentence));
                return;
            }
        }
    }

    /// Follows one process to its end.
    fn attend(&mut self, mut child: Child, log_from: u64, since: Instant) -> End {
        let pid = i32::try_from(child.id()).expect("the kernel's process numbers are i32");
        {
            let mut wish = self.shared.wish();
            wish.pid = Some(pid);
            if wish.stop || wish.down {
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
        }
        let mut ready_since = None;
        let status = loop {
            if let Some(status) = self.ended(&mut child) {
                break status;
            }
            if ready_since.is_none() {
                if (self.ready)(&Started { pid, recipe: &self.recipe, log_from }) {
                    ready_since = Some(Instant::now());
                    self.progress.send(&self.shared.name, Event::Ready { after: since.elapsed(), starts: self.starts });
                    self.shared.state.send_replace(State::Ready { starts: self.starts });
                } else if since.elapsed() > STARTUP {
                    let _ = child.kill();
                }
            }
            std::thread::sleep(if ready_since.is_some() { WATCH } else { POLL });
        };
        if ready_since.is_some_and(|since| since.elapsed() > STEADY) {
            self.deaths = 0;
        }
        let mut wish = self.shared.wish();
        if std::mem::take(&mut wish.asked) || wish.stop || wish.down {
            End::Asked
        } else if ready_since.is_none() && since.elapsed() > STARTUP {
            End::NeverReady
        } else {
            End::Died(format!("it ended with {status}: {}", last_lines(&self.recipe.log, log_from, 2)))
        }
    }

    fn ended(&self, child: &mut Child) -> Option<ExitStatus> {
        // Reaped under the lock: see `Keeper::signal`.
        let mut wish = self.shared.wish();
        let end = child.try_wait().ok().flatten()?;
        wish.pid = None;
        Some(end)
    }

    /// Waits out a pause, or a time down. False when the keeper is to stop.
    fn wait_until_wanted(&self) -> bool {
        let until = Instant::now() + self.pause();
        let mut wish = self.shared.wish();
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if wish.stop {
                return false;
            }
            if wish.down {
                self.shared.state.send_if_modified(|state| std::mem::replace(state, State::Down) != State::Down);
                wish = self.shared.changed.wait(wish).unwrap_or_else(PoisonError::into_inner);
            } else if left.is_zero() {
                return true;
            } else {
                wish = self.shared.changed.wait_timeout(wish, left).unwrap_or_else(PoisonError::into_inner).0;
            }
        }
    }

    fn pause(&self) -> Duration {
        match self.deaths {
            0 => Duration::ZERO,
            deaths => (PAUSE * 2_u32.saturating_pow(deaths - 1)).min(LONGEST_PAUSE),
        }
    }

    /// Counts a death, and gives the final sentence when it was one too many.
    fn note_death(&mut self, reason: &str) -> Option<String> {
        self.deaths += 1;
        if let Some(full) = crate::datadir::full_disk(&self.recipe.directory) {
            return Some(full);
        }
        if self.deaths >= DEATHS {
            return Some(self.sentence(&format!("died {DEATHS} times in a row and is given up; {reason}")));
        }
        self.progress.send(&self.shared.name, Event::Died { reason: reason.to_owned(), restart_in: self.pause() });
        None
    }

    fn sentence(&self, what: &str) -> String {
        format!("{} {what}. Its log: {}", self.shared.name, self.recipe.log.display())
    }
}

/// How a process ended.
enum End {
    /// Somebody wanted it to.
    Asked,
    Died(String),
    NeverReady,
}
