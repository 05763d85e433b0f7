// What floor.c does, with tokio: a task a connection, in one thread. `tokio PORT`
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};

async fn serve(mut stream: TcpStream) {
    let mut buffer = [0u8; 512];
    while matches!(stream.read(&mut buffer).await, Ok(n) if n > 0) {}
}

fn main() {
    let port: u16 = std::env::args().nth(1).expect("PORT").parse().expect("a port");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().expect("a runtime");
    runtime.block_on(async {
        let listener = TcpListener::bind(("127.0.0.1", port)).await.expect("listening");
        loop {
            let (stream, _) = listener.accept().await.expect("accepting");
            tokio::spawn(serve(stream));
        }
    });
}
