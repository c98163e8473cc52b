//! temporary
fn main() {
    let dir = std::env::args().nth(1).unwrap();
    let cx = deem::Context::host(std::env::args().nth(3).map_or(0, |x| x.parse().unwrap()));
    if std::env::args().nth(2).as_deref() == Some("bench") {
        let t = deem::bench::step(&cx, dir.as_ref(), 15).unwrap();
        println!(
            "{:?} loss {} act {} state {}\n{:.1} ms",
            t.times_ms,
            t.loss,
            t.activation_bytes,
            t.state_bytes,
            t.median_ms()
        );
        println!("{:?}", cx.arena().stats());
        return;
    }
    let f = deem::parity::Fixture::open(dir.as_ref()).unwrap();
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
