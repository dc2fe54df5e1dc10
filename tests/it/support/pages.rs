//! Serves pages from an origin of their own, as any static server does.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A static server.
pub struct Pages {
    port: u16,
    is_away: Arc<AtomicBool>,
}

impl Pages {
    /// Serves the files of these folders of the checkout.
    pub fn serve(folders: &[&Path]) -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let folders: Arc<[PathBuf]> = folders.iter().map(|folder| root.join(folder)).collect();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let is_away = Arc::new(AtomicBool::new(false));
        let this = Self { port, is_away: Arc::clone(&is_away) };
        std::thread::spawn(move || {
            for stream in listener.incoming().filter(|_| !is_away.load(Ordering::Relaxed)) {
                let folders = Arc::clone(&folders);
                std::thread::spawn(move || answer(stream.unwrap(), &folders));
            }
        });
        this
    }

    /// Where the pages are.
    pub fn origin(&self) -> String {
        format!("http://localhost:{}", self.port)
    }

    /// From now on there is no network between the pages and their readers.
    pub fn take_away(&self) {
        self.is_away.store(true, Ordering::Relaxed);
    }
}

fn answer(mut stream: TcpStream, folders: &[PathBuf]) {
    let mut request = [0; 4096];
    let length = stream.read(&mut request).unwrap_or(0);
    let request = String::from_utf8_lossy(&request[..length]);
    let target = request.split(' ').nth(1).unwrap_or_default();
    let name = target.split('?').next().unwrap_or_default().trim_start_matches('/');
    let name = if name.is_empty() { "index.html" } else { name };
    let file = folders.iter().find_map(|folder| std::fs::read(folder.join(name)).ok());
    let status = if file.is_some() { "200 OK" } else { "404 Not Found" };
    let kind = match Path::new(name).extension().and_then(|extension| extension.to_str()) {
        Some("html") => "text/html",
        Some("css") => "text/css",
        Some("js") => "text/javascript",
        _ => "text/plain",
    };
    let body = file.unwrap_or_default();
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    let _ = stream.write_all(head.as_bytes());
    let _ = stream.write_all(&body);
}
