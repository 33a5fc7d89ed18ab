//! A server with a fault for each request, in the order in which they come: it has files of its own, as a web server, or
//! stands before another server and lets what has no fault pass.

use std::collections::{BTreeMap, VecDeque};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};

/// What becomes of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It is answered.
    None,
    /// 500.
    Broken,
    /// 503.
    Busy,
    /// The connection is closed in the middle of the body.
    Truncated,
    /// Nothing comes for as long as the server is there.
    Silent,
}

/// The faults of the next requests.
#[derive(Default)]
struct Plan {
    next: VecDeque<Fault>,
    /// Then every so many requests one is broken, busy or truncated, in turn.
    every: Option<usize>,
    seen: usize,
}

impl Plan {
    fn take(&mut self) -> Fault {
        self.seen += 1;
        let regular = match self.every {
            Some(every) if self.seen.is_multiple_of(every) => {
                [Fault::Broken, Fault::Truncated, Fault::Busy][self.seen / every % 3]
            }
            _ => Fault::None,
        };
        self.next.pop_front().unwrap_or(regular)
    }
}

#[derive(Default)]
struct State {
    files: Mutex<BTreeMap<String, Vec<u8>>>,
    /// The port of the server behind this one.
    behind: Option<u16>,
    /// Whether answers name the version of a file.
    tags: bool,
    faults: Mutex<Plan>,
    /// Method, path and range of each request.
    log: Mutex<Vec<String>>,
    stop: AtomicBool,
    stopped: (Mutex<bool>, Condvar),
}

/// Stops when it is dropped.
pub struct Server {
    state: Arc<State>,
    port: u16,
}

impl Server {
    /// Serves files on a port of its own.
    pub fn start() -> Self {
        Self::with(State { tags: true, ..State::default() })
    }

    /// Serves files, and names no versions of them.
    pub fn without_tags() -> Self {
        Self::with(State::default())
    }

    /// Stands before the server at `port`.
    pub fn before(port: u16) -> Self {
        Self::with(State { behind: Some(port), ..State::default() })
    }

    fn with(state: State) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("an address").port();
        let state = Arc::new(state);
        let shared = state.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if shared.stop.load(Ordering::Relaxed) {
                    return;
                }
                let state = shared.clone();
                // One request a connection; a client that has gone is no failure.
                std::thread::spawn(move || drop(answer(stream, &state)));
            }
        });
        Self { state, port }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// The address of a file.
    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}/{path}", self.port)
    }

    /// Gives it a file.
    pub fn put(&self, path: &str, bytes: Vec<u8>) {
        self.state.files.lock().unwrap().insert(format!("/{path}"), bytes);
    }

    /// What happens to the next requests; those after them are answered.
    pub fn fail(&self, faults: &[Fault]) {
        *self.state.faults.lock().unwrap() = Plan { next: faults.iter().copied().collect(), ..Plan::default() };
    }

    /// Every so many requests one fails from now on.
    pub fn fail_every(&self, requests: usize) {
        *self.state.faults.lock().unwrap() = Plan { every: Some(requests), ..Plan::default() };
    }

    /// The requests since it was asked last.
    pub fn requests(&self) -> Vec<String> {
        std::mem::take(&mut self.state.log.lock().unwrap())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.state.stop.store(true, Ordering::Relaxed);
        *self.state.stopped.0.lock().unwrap() = true;
        self.state.stopped.1.notify_all();
        // Wakes the thread that listens.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

struct Request {
    method: String,
    path: String,
    range: Option<String>,
    /// As it came, without `Connection`.
    head: Vec<u8>,
    body: Vec<u8>,
}

fn read(reader: &mut impl BufRead) -> std::io::Result<Request> {
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let mut words = line.split_whitespace().map(str::to_string);
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let (mut range, mut length, mut head) = (None, 0, line.into_bytes());
    loop {
        let mut header = String::new();
        reader.read_line(&mut header)?;
        let Some((name, value)) = header.trim().split_once(':') else { break };
        match name.to_ascii_lowercase().as_str() {
            "range" => range = value.trim().strip_prefix("bytes=").map(str::to_string),
            "content-length" => length = value.trim().parse().unwrap_or(0),
            "connection" => continue,
            _ => {}
        }
        head.extend_from_slice(header.as_bytes());
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    Ok(Request { method, path, range, head, body })
}

fn answer(mut stream: TcpStream, state: &State) -> std::io::Result<()> {
    let request = read(&mut BufReader::new(stream.try_clone()?))?;
    let Request { method, path, range, .. } = &request;
    state.log.lock().unwrap().push(format!("{method} {path} {}", range.as_deref().unwrap_or("-")));
    let fault = state.faults.lock().unwrap().take();
    let whole = match fault {
        Fault::Broken => head("500 Internal Server Error", 0, ""),
        Fault::Busy => head("503 Service Unavailable", 0, ""),
        Fault::Silent => {
            let (stopped, wake) = &state.stopped;
            drop(wake.wait_while(stopped.lock().unwrap(), |stopped| !*stopped));
            return Ok(());
        }
        Fault::None | Fault::Truncated => match state.behind {
            Some(port) => passed_on(&request, port)?,
            None => served(&request, state),
        },
    };
    let body = whole.windows(4).position(|end| end == b"\r\n\r\n").map_or(whole.len(), |end| end + 4);
    // An answer without a body is cut in its head: then nothing of it comes.
    let sent = match fault {
        Fault::Truncated if body < whole.len() => &whole[..body + (whole.len() - body) / 2],
        Fault::Truncated => &[],
        _ => &whole[..],
    };
    stream.write_all(sent)
}

/// The answer of the server behind this one.
fn passed_on(request: &Request, port: u16) -> std::io::Result<Vec<u8>> {
    let mut behind = TcpStream::connect(("127.0.0.1", port))?;
    behind.write_all(&request.head)?;
    behind.write_all(b"Connection: close\r\n\r\n")?;
    behind.write_all(&request.body)?;
    let mut answer = Vec::new();
    behind.read_to_end(&mut answer)?;
    Ok(answer)
}

fn served(request: &Request, state: &State) -> Vec<u8> {
    let Some(file) = state.files.lock().unwrap().get(&request.path).cloned() else {
        return head("404 Not Found", 0, "");
    };
    let tag = if state.tags { "ETag: \"x\"\r\n" } else { "" };
    let about = format!("{tag}Last-Modified: Thu, 01 Jan 2026 00:00:00 GMT\r\n");
    let size = file.len();
    let bounds = request.range.as_ref().and_then(|range| {
        let (start, end) = range.split_once('-')?;
        Some(match (start.parse::<usize>(), end.parse::<usize>()) {
            (Ok(start), Ok(end)) => start.min(size)..(end + 1).min(size),
            (Ok(start), _) => start.min(size)..size,
            (_, Ok(last)) => size - last.min(size)..size,
            _ => return None,
        })
    });
    let (mut answer, bounds) = match bounds {
        Some(bounds) => {
            let range = format!("{about}Content-Range: bytes {}-{}/{size}\r\n", bounds.start, bounds.end.max(1) - 1);
            (head("206 Partial Content", bounds.len(), &range), bounds)
        }
        None => (head("200 OK", size, &about), 0..size),
    };
    if request.method != "HEAD" {
        answer.extend_from_slice(&file[bounds]);
    }
    answer
}

fn head(status: &str, length: usize, more: &str) -> Vec<u8> {
    format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n{more}\r\n").into_bytes()
}
