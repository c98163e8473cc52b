//! temporary
fn main() {
    let dir = std::env::args().nth(1).unwrap();
    let f = deem::parity::Fixture::open(dir.as_ref()).unwrap();
    let cx = deem::Context::host(0);
    let t = if std::env::args().nth(2).as_deref() == Some("f64") {
        deem::parity::run::<f64>(&cx, &f)
    } else {
        deem::parity::run::<f32>(&cx, &f)
    };
    match t {
        Ok(t) => println!("{t}"),
        Err(e) => println!("error: {e}"),
    }
}
