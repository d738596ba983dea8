/* Preloaded into adbd, which listens on every interface and, as Debian builds it, asks nobody for a key: here it gets
 * the loopback interface whatever it asks for. Virtual machine sockets, which other machines could reach, it does not
 * get at all. */
#include <errno.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

int bind(int fd, const struct sockaddr *wanted, socklen_t length)
{
    struct sockaddr_storage address;

    if (length < sizeof(sa_family_t) || length > sizeof address) {
        errno = EINVAL;
        return -1;
    }
    memcpy(&address, wanted, length);
    if (address.ss_family == AF_INET && length >= sizeof(struct sockaddr_in)) {
        ((struct sockaddr_in *)&address)->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    } else if (address.ss_family == AF_INET6 && length >= sizeof(struct sockaddr_in6)) {
        /* ::ffff:127.0.0.1, so that IPv4 clients get through on a socket of the other family. */
        static const unsigned char mapped[16] = {[10] = 0xff, [11] = 0xff, [12] = 127, [15] = 1};
        memcpy(&((struct sockaddr_in6 *)&address)->sin6_addr, mapped, sizeof mapped);
    } else if (address.ss_family != AF_UNIX) {
        errno = EADDRNOTAVAIL;
        return -1;
    }
    return (int)syscall(SYS_bind, fd, &address, length);
}
