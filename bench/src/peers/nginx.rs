//! nginx as a relay of octets (stream) and as a mail proxy (mail): one worker, no log.
//!
//! The mail proxy asks an HTTP server where to send; that server is in the same process, so that
//! its cost is nginx's own. With the default buffers of one page it would wait for delayed
//! acknowledgements, 40 ms a message; with 128 KiB it does not.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use anyhow::Result;

use super::{Place, START, ask, find, word_after};
use crate::component::{Component, folder_in, free_address};

/// Where Debian puts modules; elsewhere they may be built in.
const MODULES: &str = "/usr/lib/nginx/modules";

pub(super) fn installed(module: &str) -> Result<(), String> {
    let package = format!("nginx libnginx-mod-{module}");
    let program = find("nginx", &package)?;
    let built_in = ask(&program, &["-V"]).is_ok_and(|said| {
        said.split_whitespace().any(|option| option == format!("--with-{module}"))
    });
    if built_in || dynamic(module).is_some() {
        Ok(())
    } else {
        Err(format!("nginx has no module {module} (apt-get install libnginx-mod-{module})"))
    }
}

pub(super) fn version() -> Result<String> {
    let program = find("nginx", "nginx").map_err(anyhow::Error::msg)?;
    word_after(&ask(&program, &["-v"])?, "nginx/")
}

/// The `load_module` line of a module that is a file.
fn dynamic(module: &str) -> Option<String> {
    let file = Path::new(MODULES).join(format!("ngx_{module}_module.so"));
    file.exists().then(|| format!("load_module {};\n", file.display()))
}

/// Starts it with the blocks that `blocks` makes for a listener, a sink and its folder.
pub(super) fn start(
    place: &Place<'_>,
    blocks: fn(SocketAddr, SocketAddr, &Path) -> Result<String>,
) -> Result<Component> {
    let program = find("nginx", "nginx").map_err(anyhow::Error::msg)?;
    let folder = folder_in(place.folder, place.name)?;
    let listen = free_address()?;
    let path = folder.path();
    // The user counts only when started by root.
    let config = format!(
        "{}daemon off;\nuser nobody nogroup;\npid {}/pid;\nerror_log stderr crit;\n\
         worker_processes 1;\nworker_rlimit_nofile 65536;\n\
         events {{ worker_connections 30000; }}\n",
        blocks(listen, place.sink, path)?,
        path.display(),
    );
    let file = path.join("nginx.conf");
    fs::write(&file, config)?;
    let mut command = Command::new(program);
    command.args(["-e", "stderr", "-p"]).arg(path).arg("-c").arg(&file);
    let mut component = Component::spawn(place.name, &command, place.placement)?;
    component = component.at(listen).keeping(folder);
    component.wait_until_open(START)?;
    Ok(component)
}

pub(super) fn stream(listen: SocketAddr, sink: SocketAddr, _: &Path) -> Result<String> {
    let module = dynamic("stream").unwrap_or_default();
    Ok(format!(
        "{module}stream {{\n    access_log off;\n    server {{\n        \
         listen {listen} backlog=4096;\n        proxy_timeout 10m;\n        \
         proxy_pass {sink};\n    }}\n}}\n"
    ))
}

pub(super) fn mail(listen: SocketAddr, sink: SocketAddr, folder: &Path) -> Result<String> {
    let module = dynamic("mail").unwrap_or_default();
    let directory = free_address()?;
    let folder = folder.display();
    let (host, port) = (sink.ip(), sink.port());
    Ok(format!(
        "{module}mail {{\n    server_name nginx.test;\n    auth_http {directory}/auth;\n    \
         xclient off;\n    smtp_auth none;\n    \
         smtp_capabilities PIPELINING \"SIZE 104857600\" 8BITMIME SMTPUTF8 DSN;\n    \
         smtp_client_buffer 128k;\n    proxy_buffer 128k;\n    timeout 10m;\n    \
         proxy_timeout 10m;\n    server {{\n        \
         listen {listen} backlog=4096;\n        protocol smtp;\n    }}\n}}\n\
         http {{\n    access_log off;\n    client_body_temp_path {folder}/body;\n    \
         proxy_temp_path {folder}/proxy;\n    fastcgi_temp_path {folder}/fastcgi;\n    \
         uwsgi_temp_path {folder}/uwsgi;\n    scgi_temp_path {folder}/scgi;\n    server {{\n        \
         listen {directory} backlog=4096;\n        location /auth {{\n            \
         add_header Auth-Status OK;\n            add_header Auth-Server {host};\n            \
         add_header Auth-Port {port};\n            return 200;\n        }}\n    }}\n}}\n"
    ))
}
