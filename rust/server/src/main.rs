fn main() {
    std::process::exit(ferrule_server::main(std::env::args_os().collect()));
}
