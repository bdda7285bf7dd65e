//! Objects that the kernel counts for each user, whatever the cgroup. Each hog takes all of its user. Each victim
//! makes one and gives it back.

use std::fs::{self, File};
use std::io::{self, IoSlice};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::rc::Rc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use nix::fcntl::{AT_FDCWD, FcntlArg, OFlag, fcntl};
use nix::mqueue::{MQ_OFlag, MqAttr, MqdT, mq_close, mq_open, mq_unlink};
use nix::sched::{CloneFlags, unshare};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use nix::sys::eventfd::EventFd;
use nix::sys::fanotify::{EventFFlags, Fanotify, InitFlags as FanotifyFlags, MarkFlags, MaskFlags};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use nix::sys::signal::{SigEvent, SigevNotify};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use nix::sys::stat::Mode;
use nix::sys::timer::Timer;
use nix::time::ClockId;
use nix::unistd::pipe;

use super::act::{Hog, PAGE, Victim, take};
use super::calls;

/// More than the kernel allows of any of these objects by default.
const MANY: usize = 2_000_000;

/// Makes objects until the kernel refuses one.
fn take_all<T: 'static>(make: impl FnMut() -> io::Result<T>) -> io::Result<Hog> {
    let (taken, why) = take(MANY, make);
    Ok(Hog::holds(format!("{}, then: {why}", taken.len()), taken))
}

/// Makes objects of the size, and halves it whenever the kernel refuses one, down to the least size.
fn take_halves<T: 'static>(
    mut size: usize,
    least: usize,
    mut make: impl FnMut(usize) -> io::Result<T>,
) -> io::Result<Hog> {
    take_all(move || {
        loop {
            match make(size) {
                Err(_) if size > least => size /= 2,
                made => return made,
            }
        }
    })
}

fn makes<T>(mut make: impl FnMut() -> io::Result<T> + 'static) -> io::Result<Victim> {
    Ok(Victim::tries(move || make().map(drop)))
}

fn inotify() -> io::Result<Inotify> {
    Ok(Inotify::init(InitFlags::IN_CLOEXEC)?)
}

pub(super) fn inotify_hog() -> io::Result<Hog> {
    take_all(inotify)
}

pub(super) fn inotify_victim() -> io::Result<Victim> {
    makes(inotify)
}

/// Number of the hog's inotify instances, less than the limit of a user.
const INSTANCES: usize = 64;
/// Directory of the files to watch.
const FILES: &str = "/dev/shm/watched";

fn watch(inotify: &Inotify, number: usize) -> io::Result<()> {
    inotify.add_watch(format!("{FILES}/{number}").as_str(), AddWatchFlags::IN_ATTRIB)?;
    Ok(())
}

/// Watches the same files with each instance.
pub(super) fn watch_hog() -> io::Result<Hog> {
    fs::create_dir_all(FILES)?;
    let instances = (0..INSTANCES).map(|_| inotify()).collect::<io::Result<Vec<_>>>()?;
    for number in 0..MANY {
        fs::write(format!("{FILES}/{number}"), "")?;
        for (at, instance) in instances.iter().enumerate() {
            if let Err(error) = watch(instance, number) {
                let said = format!("{}, then: {error}", number * INSTANCES + at);
                return Ok(Hog::holds(said, instances));
            }
        }
    }
    Ok(Hog::holds("all", instances))
}

pub(super) fn watch_victim() -> io::Result<Victim> {
    fs::create_dir_all(FILES)?;
    fs::write(format!("{FILES}/0"), "")?;
    let instance = inotify()?;
    makes(move || {
        let file = format!("{FILES}/0");
        let watch = instance.add_watch(file.as_str(), AddWatchFlags::IN_ATTRIB)?;
        Ok(instance.rm_watch(watch)?)
    })
}

/// An ordinary user may have groups that report file handles (Linux 5.13).
fn fanotify() -> io::Result<Fanotify> {
    const FAN_REPORT_FID: u32 = 0x200;
    let flags = FanotifyFlags::FAN_CLASS_NOTIF | FanotifyFlags::from_bits_retain(FAN_REPORT_FID);
    Ok(Fanotify::init(flags, EventFFlags::O_RDONLY)?)
}

pub(super) fn fanotify_hog() -> io::Result<Hog> {
    take_all(fanotify)
}

pub(super) fn fanotify_victim() -> io::Result<Victim> {
    makes(fanotify)
}

fn mark(group: &Fanotify, number: usize) -> io::Result<()> {
    let path = format!("{FILES}/{number}");
    fs::write(&path, "")?;
    Ok(group.mark(MarkFlags::FAN_MARK_ADD, MaskFlags::FAN_OPEN, AT_FDCWD, Some(path.as_str()))?)
}

/// Marks the files of a directory, each once.
pub(super) fn mark_hog() -> io::Result<Hog> {
    fs::create_dir_all(FILES)?;
    let group = fanotify()?;
    let (marks, why) = take(MANY, || {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        mark(&group, NUMBER.fetch_add(1, Ordering::Relaxed))
    });
    Ok(Hog::holds(format!("{}, then: {why}", marks.len()), group))
}

/// The marks of a group vanish with it.
pub(super) fn mark_victim() -> io::Result<Victim> {
    fs::create_dir_all(FILES)?;
    makes(|| mark(&fanotify()?, 0))
}

/// Enters a new user namespace, in which the process may make other namespaces.
fn enter_user_namespace() -> io::Result<()> {
    Ok(unshare(CloneFlags::CLONE_NEWUSER)?)
}

/// Each namespace exists as long as a descriptor or a process is in it.
fn uts_namespace() -> io::Result<File> {
    unshare(CloneFlags::CLONE_NEWUTS)?;
    File::open("/proc/self/ns/uts")
}

pub(super) fn namespace_hog() -> io::Result<Hog> {
    enter_user_namespace()?;
    take_all(uts_namespace)
}

pub(super) fn namespace_victim() -> io::Result<Victim> {
    enter_user_namespace()?;
    makes(uts_namespace)
}

/// Takes buffers of io_uring, each half as large as the one that was refused.
pub(super) fn ring_hog() -> io::Result<Hog> {
    take_halves(1 << 20, PAGE, calls::registered_buffer)
}

pub(super) fn ring_victim() -> io::Result<Victim> {
    makes(|| calls::registered_buffer(PAGE))
}

/// A pipe with the largest buffer that an ordinary user may have.
fn large_pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let ends = pipe()?;
    fcntl(&ends.1, FcntlArg::F_SETPIPE_SZ(1 << 20))?;
    Ok(ends)
}

pub(super) fn pipe_hog() -> io::Result<Hog> {
    take_all(large_pipe)
}

pub(super) fn pipe_victim() -> io::Result<Victim> {
    makes(large_pipe)
}

/// The kernel reserves a queued signal for each timer.
fn timer() -> io::Result<Timer> {
    Ok(Timer::new(ClockId::CLOCK_MONOTONIC, SigEvent::new(SigevNotify::SigevNone))?)
}

pub(super) fn timer_hog() -> io::Result<Hog> {
    take_all(timer)
}

pub(super) fn timer_victim() -> io::Result<Victim> {
    makes(timer)
}

/// A message queue without a name.
struct Queue(Option<MqdT>);

impl Drop for Queue {
    fn drop(&mut self) {
        let _ = self.0.take().map(mq_close);
    }
}

fn queue(messages: i64) -> io::Result<Queue> {
    let flags = MQ_OFlag::O_CREAT | MQ_OFlag::O_EXCL | MQ_OFlag::O_RDWR;
    let attributes = MqAttr::new(0, messages, 8192, 0);
    let queue = Queue(Some(mq_open("/queue", flags, Mode::S_IRUSR | Mode::S_IWUSR, Some(&attributes))?));
    mq_unlink("/queue")?;
    Ok(queue)
}

/// Takes large queues, and then small ones.
pub(super) fn queue_hog() -> io::Result<Hog> {
    let mut messages = 10;
    take_all(move || {
        loop {
            match queue(messages) {
                Err(_) if messages > 1 => messages = 1,
                other => return other,
            }
        }
    })
}

pub(super) fn queue_victim() -> io::Result<Victim> {
    makes(|| queue(1))
}

/// Adds a key with a name of its own.
fn key() -> io::Result<calls::Key> {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    calls::add_key(&format!("key:{}", NUMBER.fetch_add(1, Ordering::Relaxed)))
}

pub(super) fn key_hog() -> io::Result<Hog> {
    let taken = take_all(key)?;
    // The kernel gives the room of removed keys back later.
    thread::Builder::new().spawn(move || {
        loop {
            match key() {
                Ok(key) => std::mem::forget(key),
                Err(_) => thread::sleep(Duration::from_millis(1)),
            }
        }
    })?;
    Ok(taken)
}

pub(super) fn key_victim() -> io::Result<Victim> {
    makes(key)
}

/// Takes segments of shared memory, each half as large as the one that was refused.
pub(super) fn lock_hog() -> io::Result<Hog> {
    take_halves(1 << 30, PAGE, calls::locked_segment)
}

pub(super) fn lock_victim() -> io::Result<Victim> {
    makes(|| calls::locked_segment(PAGE))
}

/// The kernel counts threads as processes.
pub(super) fn process_hog() -> io::Result<Hog> {
    take_all(|| thread::Builder::new().spawn(thread::park))
}

pub(super) fn process_victim() -> io::Result<Victim> {
    makes(|| Ok(thread::Builder::new().spawn(|| ())?.join()))
}

/// Number of descriptors of one message (`SCM_MAX_FD`).
const MOST: usize = 253;

/// Sends descriptors that no process receives.
fn send_descriptors(count: usize) -> io::Result<(UnixDatagram, UnixDatagram)> {
    let pair = UnixDatagram::pair()?;
    let descriptors = vec![pair.0.as_raw_fd(); count];
    let rights = [ControlMessage::ScmRights(&descriptors)];
    sendmsg::<()>(pair.0.as_raw_fd(), &[IoSlice::new(b"x")], &rights, MsgFlags::empty(), None)?;
    Ok(pair)
}

pub(super) fn flight_hog() -> io::Result<Hog> {
    take_all(|| send_descriptors(MOST))
}

pub(super) fn flight_victim() -> io::Result<Victim> {
    makes(|| send_descriptors(1))
}

/// Number of files that one epoll instance watches.
const EVENTS: usize = 500;

fn epoll(files: &[EventFd]) -> io::Result<Epoll> {
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    for file in files {
        epoll.add(file, EpollEvent::new(EpollFlags::EPOLLIN, 0))?;
    }
    Ok(epoll)
}

pub(super) fn epoll_hog() -> io::Result<Hog> {
    let files = Rc::new((0..EVENTS).map(|_| EventFd::new()).collect::<Result<Vec<_>, _>>()?);
    // The last instances watch fewer files. A file that is closed is no longer watched.
    take_halves(files.len(), 1, move |count| Ok((epoll(&files[..count])?, files.clone())))
}

pub(super) fn epoll_victim() -> io::Result<Victim> {
    let file = [EventFd::new()?];
    makes(move || epoll(&file))
}

fn terminal() -> io::Result<nix::pty::PtyMaster> {
    Ok(nix::pty::posix_openpt(OFlag::O_RDWR | OFlag::O_NOCTTY)?)
}

pub(super) fn terminal_hog() -> io::Result<Hog> {
    take_all(terminal)
}

pub(super) fn terminal_victim() -> io::Result<Victim> {
    makes(terminal)
}

pub(super) fn aio_hog() -> io::Result<Hog> {
    take_halves(1 << 16, 1, |events| calls::aio(events as u32))
}

pub(super) fn aio_victim() -> io::Result<Victim> {
    makes(|| calls::aio(1))
}
