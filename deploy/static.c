// Linked into the static binary only. A static glibc looks names up as /etc/nsswitch.conf says, and for that loads
// modules of the host's glibc into the process, which crashes it if the two versions differ. The services below are
// part of the binary. They read /etc/hosts, /etc/resolv.conf and /etc/passwd.
#include <nss.h>

__attribute__((constructor)) static void use_own_services(void) {
    __nss_configure_lookup("hosts", "files dns");
    __nss_configure_lookup("passwd", "files");
    __nss_configure_lookup("services", "files");
}
