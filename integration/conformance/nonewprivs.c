/* Says as whom it runs. As a setuid program of root's, that tells whether
 * no_new_privs is on. */
#include <stdio.h>
#include <unistd.h>

int main(void)
{
    printf("Effective uid: %d\n", (int)geteuid());
    return 0;
}
