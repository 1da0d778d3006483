/* What every user of a Windows may do: tell the agent's service a control code of its own. */
#include <windows.h>

int main(void)
{
    SERVICE_STATUS status;
    SC_HANDLE manager = OpenSCManagerA(NULL, NULL, SC_MANAGER_CONNECT);
    SC_HANDLE service = OpenServiceA(manager, "WardringAgent", SERVICE_USER_DEFINED_CONTROL);

    return service && ControlService(service, 128, &status) ? 0 : 1;
}
