//! A web server with a fault for each request, in the order in which they come.

use std::collections::{BTreeMap, VecDeque};
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

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
    /// Nothing comes until the other side gives up.
    Silent,
}

#[derive(Default)]
struct State {
    files: Mutex<BTreeMap<String, Vec<u8>>>,
    faults: Mutex<VecDeque<Fault>>,
    /// Method, path and range of each request.
    log: Mutex<Vec<String>>,
    stop: AtomicBool,
}

/// Stops when it is dropped.
pub struct Server {
    state: Arc<State>,
    port: u16,
}

impl Server {
    /// Serves on a port of its own.
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("an address").port();
        let state = Arc::new(State::default());
        let shared = state.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if shared.stop.load(Ordering::Relaxed) {
                    return;
                }
                let state = shared.clone();
                std::thread::spawn(move || serve(stream, &state));
            }
        });
        Self { state, port }
    }

    /// The address of a file.
    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}/{path}", self.port)
    }

    /// Gives it a file.
    pub fn put(&self, path: &str, bytes: Vec<u8>) {
        self.state.files.lock().unwrap().insert(format!("/{path}"), bytes);
    }

    /// A file that it was given.
    pub fn get(&self, path: &str) -> Option<Vec<u8>> {
        self.state.files.lock().unwrap().get(&format!("/{path}")).cloned()
    }

    /// What happens to the next requests; those after them are answered.
    pub fn fail(&self, faults: &[Fault]) {
        *self.state.faults.lock().unwrap() = faults.iter().copied().collect();
    }

    /// The requests since it was asked last.
    pub fn requests(&self) -> Vec<String> {
        std::mem::take(&mut self.state.log.lock().unwrap())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.state.stop.store(true, Ordering::Relaxed);
        // Wakes the thread that listens.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

/// One request a connection.
fn serve(stream: TcpStream, state: &State) {
    let _ = answer(stream, state);
}

fn answer(mut stream: TcpStream, state: &State) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let mut words = line.split_whitespace().map(str::to_string);
    let (Some(method), Some(path)) = (words.next(), words.next()) else { return Ok(()) };
    let (mut range, mut length) = (None, 0);
    loop {
        let mut header = String::new();
        reader.read_line(&mut header)?;
        let Some((name, value)) = header.trim().split_once(':') else { break };
        match name.to_ascii_lowercase().as_str() {
            "range" => range = value.trim().strip_prefix("bytes=").map(str::to_string),
            "content-length" => length = value.trim().parse().unwrap_or(0),
            _ => {}
        }
    }
    state.log.lock().unwrap().push(format!("{method} {path} {}", range.as_deref().unwrap_or("-")));
    let fault = state.faults.lock().unwrap().pop_front().unwrap_or(Fault::None);
    match fault {
        Fault::Broken => return head(&mut stream, "500 Internal Server Error", 0, ""),
        Fault::Busy => return head(&mut stream, "503 Service Unavailable", 0, ""),
        Fault::Silent => {
            std::thread::sleep(Duration::from_secs(20));
            return Ok(());
        }
        Fault::None | Fault::Truncated => {}
    }
    if method == "PUT" {
        let mut body = vec![0; length];
        std::io::Read::read_exact(&mut reader, &mut body)?;
        state.files.lock().unwrap().insert(path, body);
        return head(&mut stream, "201 Created", 0, "ETag: \"x\"\r\n");
    }
    let Some(file) = state.files.lock().unwrap().get(&path).cloned() else {
        return head(&mut stream, "404 Not Found", 0, "");
    };
    let bounds = range.and_then(|range| {
        let (start, end) = range.split_once('-').map(|(a, b)| (a.to_string(), b.to_string()))?;
        let size = file.len();
        Some(match (start.parse::<usize>(), end.parse::<usize>()) {
            (Ok(start), Ok(end)) => start.min(size)..(end + 1).min(size),
            (Ok(start), _) => start.min(size)..size,
            (_, Ok(last)) => size - last.min(size)..size,
            _ => return None,
        })
    });
    const ABOUT: &str = "ETag: \"x\"\r\nLast-Modified: Thu, 01 Jan 2026 00:00:00 GMT\r\n";
    let (status, bounds, more) = match bounds {
        Some(bounds) => {
            let range = format!("Content-Range: bytes {}-{}/{}\r\n", bounds.start, bounds.end.max(1) - 1, file.len());
            ("206 Partial Content", bounds, format!("{ABOUT}{range}"))
        }
        None => ("200 OK", 0..file.len(), ABOUT.to_string()),
    };
    let body = &file[bounds];
    head(&mut stream, status, body.len(), &more)?;
    match (method.as_str(), fault) {
        ("HEAD", _) => Ok(()),
        (_, Fault::Truncated) => stream.write_all(&body[..body.len() / 2]),
        _ => stream.write_all(body),
    }
}

fn head(stream: &mut TcpStream, status: &str, length: usize, more: &str) -> std::io::Result<()> {
    write!(stream, "HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n{more}\r\n")
}
